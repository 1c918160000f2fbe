#!/usr/bin/env php
<?php
// A small DJP/1 client over php-zmq and php-msgpack: calls, streams, cancel, failover. R-... are rules of SPEC.md.
declare(strict_types=1);
foreach (['php_only', 'error_display'] as $setting) ini_set("msgpack.$setting", '0'); // data, never objects (R-15.2)

final class Client {
    private $socket = null, $refusal = null, $epoch = '';
    private array $jobs = [], $acks = [], $limits = [];
    private bool $greeted = false, $welcomed = false;
    private int $since, $heard, $sent, $ping_ms, $dead_ms, $turn = 0, $pause = 50, $refused = 0, $next = 0;

    public function __construct(private array $addresses, private $context = new ZMQContext()) { $this->open_socket(); }

    // Returns the job's id. The listener gets 'accepted' with the state; 'chunk' with its fields, whether they replace
    // all text so far, and the header; once 'end', with the header of `result` or `error`, and the outputs.
    public function submit(string $program, array $inputs, int $timeout_ms, array $fields, callable $listener): string {
        $header = ['t' => 'submit', 'job' => $id = bin2hex(random_bytes(16)), 'program' => $program] + $fields;
        $body = msgpack_pack(['inputs' => $inputs]); // kept, to be sent again as it is (R-2.23)
        $this->jobs[$id] = (object) (compact('header', 'body', 'listener') + ['deadline' => self::now() + $timeout_ms,
            'attempt' => 0, 'epochs' => [], 'again_at' => 0, 'pause' => 50, 'cancelled' => false]);
        return $id;
    }

    public function cancel(string $id): void { // what was not sent yet is sent with its cancel
        if ($job = $this->jobs[$id] ?? null) $job->cancelled = true;
        if ($job && $this->welcomed && $job->again_at === null) $this->send(['t' => 'cancel', 'job' => $id]);
    }

    public function step(int $wait_ms): void { // takes in what has come, and does what time asks for
        ($poll = new ZMQPoll())->add($this->socket, ZMQ::POLL_IN);
        try { $poll->poll($readable, $writable, $wait_ms); } catch (ZMQPollException) { } // a signal came
        while ($frames = $this->socket->recvMulti(ZMQ::MODE_DONTWAIT)) {
            $this->heard = self::now();
            try { $this->take($frames); } catch (TypeError) { } // whatever arrives, it goes on (R-2.10)
        }
        if ($this->welcomed && $this->acks) $this->send(['t' => 'ack', 'jobs' => array_splice($this->acks, 0, 1000)]);
        $this->keep_session(self::now());
        foreach ($this->jobs as $job) {
            if ($this->welcomed && $job->again_at !== null && self::now() >= $job->again_at) $this->send_job($job);
            $late = self::now() >= $job->deadline + 10_000 * $this->welcomed; // R-7.11
            if ($this->refusal) $this->finish($job, $this->refusal); // no broker takes this client
            elseif ($late) $this->fail($job, 'DEADLINE_EXCEEDED', 'deadline');
        }
    }

    public function close(): void { // what still runs is cancelled with that (R-3.21)
        $this->step(0);
        if ($this->welcomed) $this->send(['t' => 'bye']);
        $this->socket->setSockOpt(ZMQ::SOCKOPT_LINGER, 1000);
        $this->socket = null;
    }

    private static function now(): int { return intdiv(hrtime(true), 1_000_000); }

    private function open_socket(): void { // at the next address, after a growing pause (R-3.30, R-3.31)
        if ($this->socket) [$this->socket, $_] = [null, usleep(random_int(500, 1000) * $this->pause)];
        $this->pause = min($this->pause * 2, 1000);
        $this->socket = new ZMQSocket($this->context, ZMQ::SOCKET_DEALER);
        foreach ([ZMQ::SOCKOPT_LINGER => 0, ZMQ::SOCKOPT_IMMEDIATE => 1] as $o => $n) $this->socket->setSockOpt($o, $n);
        $this->socket->connect($this->addresses[$this->next++ % count($this->addresses)]);
        [$this->since, $this->greeted, $this->welcomed, $this->refusal] = [self::now(), false, false, null];
    }

    private function keep_session(int $now): void {
        if ($now - $this->turn > 1000) $this->heard = $this->since = $now; // was stopped itself: silence proves nothing
        [$this->turn, $patience] = [$now, $this->greeted ? 5000 : 1000];
        $connected = $this->socket->getSockOpt(ZMQ::SOCKOPT_EVENTS) & ZMQ::POLL_OUT; // writable, by IMMEDIATE
        $silent = $this->welcomed ? $now - $this->heard >= $this->dead_ms : $now - $this->since >= $patience;
        if ($this->greeted && !$connected) [$this->greeted, $this->welcomed, $this->since] = [false, false, $now];
        elseif ($connected && !$this->greeted) {
            $this->send(['t' => 'hello', 'name' => 'minimal-php', 'lang' => 'php', 'features' => ['ack']]);
            [$this->greeted, $this->since] = [true, $now];
        } elseif ($silent) $this->open_socket();
        elseif ($this->welcomed && $now - $this->sent >= $this->ping_ms) $this->send(['t' => 'ping']);
    }

    private function send(array $header, string ...$body): void { // while it is not connected nothing is sent
        $frames = ['DJP1', msgpack_pack($header), ...$body];
        if ($this->socket->sendMulti($frames, ZMQ::MODE_DONTWAIT)) $this->sent = self::now();
    }

    private function send_job(object $job) {
        $others = array_values(array_diff($job->epochs, [$this->epoch]));
        $header = $job->header + ['timeout_ms' => $job->deadline - self::now()];
        if ($job->epochs) $header['known_epoch'] = end($others) ?: $this->epoch; // R-8.3
        if ($header['timeout_ms'] <= 0) return $this->fail($job, 'DEADLINE_EXCEEDED', 'deadline'); // R-5.10
        foreach (['header' => msgpack_pack($header), 'body' => $job->body] as $part => $octets) { // R-2.16
            $fits = strlen($octets) <= $this->limits["max_{$part}_bytes"];
            if (!$fits) return $this->fail($job, 'RESOURCE_EXHAUSTED', "{$part}_too_large");
        }
        $this->send($header, $job->body);
        [$job->epochs, $job->again_at] = [[...$others, $this->epoch], null];
        if ($job->cancelled) $this->send(['t' => 'cancel', 'job' => $header['job']]);
    }

    private function take(array $frames): void { // what is not named here is ignored (R-4.2)
        if (!in_array(count($frames), [2, 3], true) || $frames[0] !== 'DJP1') return;
        [$h, $body] = [msgpack_unpack($frames[1]), ($frames[2] ?? '') === '' ? [] : msgpack_unpack($frames[2])];
        $job = $this->jobs[$h['job'] ?? ''] ?? null;
        match ($h['t'] ?? '') {
            'ping' => $this->send(['t' => 'pong', 'n' => $h['n'] ?? 0]),
            'bye' => $this->open_socket(),
            'welcome' => $this->welcomed ? null : $this->welcome($h),
            'error' => $this->refused($h, $job),
            'accepted' => $job ? ($job->listener)('accepted', $h['state']) : null,
            'chunk' => $job && $h['attempt'] >= $job->attempt ? $this->chunk($job, $h, $body['fields']) : null,
            'result' => [$this->acks[] = $h['job'], $job ? $this->finish($job, $h, $body['outputs'] ?? null) : null],
            default => null,
        };
    }

    private function welcome(array $h): void {
        if ($h['epoch'] !== $this->epoch) $this->acks = []; // R-8.2
        [$this->ping_ms, $this->dead_ms, $this->limits] = [$h['ping_ms'], $h['dead_ms'], $h['limits']];
        [$this->epoch, $this->welcomed, $this->refused, $this->next] = [$h['epoch'], true, 0, 0];
        foreach ($this->jobs as $job) $this->send_job($job); // R-5.10
    }

    private function refused(array $h, ?object $job): void {
        $retryable = ($h['retryable'] ?? false) && $h['reason'] !== 'no_worker';
        $lost = $h['reason'] === 'no_session'; // one hello is enough (R-3.9)
        if ($lost) [$this->greeted, $this->welcomed] = [$this->greeted && !$this->welcomed, false];
        elseif ($job && $retryable) { // section 12.5; what is refused does not count as sent (R-8.3)
            array_pop($job->epochs);
            $job->again_at = self::now() + ($h['retry_after_ms'] ?? $job->pause *= 2) + random_int(0, 200);
        } elseif ($job) $this->finish($job, $h);
        elseif (!$this->welcomed && ($retryable || ++$this->refused < count($this->addresses))) $this->open_socket();
        elseif (!$this->welcomed) $this->refusal = $h;
    }

    private function chunk(object $job, array $h, array $fields): void {
        $anew = ($h['reset'] ?? false) || ($job->attempt && $h['attempt'] > $job->attempt); // R-9.7
        $job->attempt = $h['attempt'];
        ($job->listener)('chunk', $fields, $anew, $h);
    }

    private function finish($job, $h, $outputs = null) {
        unset($this->jobs[$job->header['job']]);
        ($job->listener)('end', $h, $outputs);
    }

    private function fail($job, $code, $reason) { $this->finish($job, compact('code', 'reason') + ['message' => '']); }
}

const JSON = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE;

function call(string $addresses, string $program, array $rest): int {
    [$inputs, $want, $timeout_ms, $twice, $code] = [[], [], 30_000, 0, null];
    while (($argument = array_shift($rest)) !== null) {
        if ($argument === '--stream') $want = ['want' => ['accepted', 'chunks']];
        elseif ($argument === '--timeout-ms') $timeout_ms = (int) array_shift($rest);
        else [$key, $inputs[$key]] = explode('=', $argument, 2);
    }
    $client = new Client(explode(',', $addresses));
    $listener = function ($event, $what, $more = null) use (&$code) {
        if ($event === 'accepted') fwrite(STDERR, "accepted $what\n");
        if ($event === 'chunk') fwrite(STDERR, ($more ? "reset\n" : '') . 'chunk ' . json_encode($what, JSON) . "\n");
        if ($event === 'end') $code = $what['code'] === 'OK' ? 0 : 1;
        if ($code === 0) echo json_encode((object) $more, JSON), "\n";
        if ($code === 1) fprintf(STDERR, "%s %s %s\n", $what['code'], $what['reason'] ?? '', $what['message'] ?? '');
    };
    $id = $client->submit($program, $inputs, $timeout_ms, $want, $listener);
    pcntl_signal(SIGINT, function () use (&$twice, $client, $id) { $twice++ ? exit(1) : $client->cancel($id); });
    for (; $code === null; pcntl_signal_dispatch()) $client->step(50);
    $client->close();
    return $code;
}

const USAGE = "usage: dspymq.php ADDR[,ADDR...] call PROGRAM [key=value ...] [--stream] [--timeout-ms N]\n";
if (($argv[1] ?? '') === 'drive') require __DIR__ . '/drive.php';
elseif ($argc > 3 && $argv[2] === 'call') exit(call($argv[1], $argv[3], array_slice($argv, 4)));
else [fwrite(STDERR, USAGE), exit(2)];
