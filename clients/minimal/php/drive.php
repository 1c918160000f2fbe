<?php
// The driver of dspymq.php for `dspymq conformance client`: see docs/conformance-drivers.md.
declare(strict_types=1);

const CODES = ['OK', 'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS',
    'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNIMPLEMENTED',
    'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS', 'UNAUTHENTICATED'];

function say(array $line): void
{
    fwrite(STDOUT, json_encode($line, JSON) . "\n");
}

/** Puts the text of one call together, and says what its caller would see. */
function reporter(string $call): callable
{
    [$text, $attempt, $chunks] = [[], 0, 0];
    return function ($event, $what, $more = null, $header = null) use (&$text, &$attempt, &$chunks, $call) {
        if ($event === 'chunk') {
            if ($more || $header['attempt'] > $attempt) {
                [$text, $chunks] = [[], $header['seq']];
            }
            $attempt = $header['attempt'];
            $chunks = $chunks === $header['seq'] ? $chunks + 1 : -1; // -1: some are missing
            foreach ($what as $name => $piece) {
                $text[$name] = ($text[$name] ?? '') . $piece;
            }
            say(['text' => ['call' => $call, 'fields' => (object) $text]]);
        } elseif ($event === 'end') {
            $code = in_array($what['code'], CODES, true) ? $what['code'] : 'UNKNOWN'; // R-12.2
            $outcome = ['call' => $call, 'code' => $code];
            $outcome += array_intersect_key($what, ['reason' => 1, 'message' => 1, 'attempt' => 1]);
            if ($code === 'OK') {
                $outcome['outputs'] = (object) $more;
                if ($text && [$what['attempt'], $what['chunks'] ?? 0] !== [$attempt, $chunks]) { // R-9.8
                    say(['text' => ['call' => $call, 'fields' => (object) array_intersect_key($more, $text)]]);
                }
            }
            say(['outcome' => $outcome]);
        }
    };
}

$client = new Client(explode(',', getenv('DSPYMQ_BROKERS')));
[$ids, $input, $closed] = [[], '', false];
stream_set_blocking(STDIN, false);
say(['ready' => true, 'supports' => ['call', 'options', 'stream', 'cancel', 'failover', 'resume', 'close']]);
while (!feof(STDIN)) {
    $input .= fread(STDIN, 65536);
    while (($end = strpos($input, "\n")) !== false) {
        $told = json_decode(substr($input, 0, $end), true);
        $input = substr($input, $end + 1);
        $call = $told['call'] ?? '';
        switch ($told['tell']) {
            case 'submit':
                $fields = ($told['options'] ?? []) + (($told['stream'] ?? false) ? ['want' => ['chunks']] : []);
                $fields += array_intersect_key($told, ['window' => 1]);
                $timeout_ms = $told['timeout_ms'] ?? 60_000;
                $ids[$call] = $client->submit($told['program'], $told['inputs'], $timeout_ms, $fields, reporter($call));
                break;
            case 'cancel':
                $client->cancel($ids[$call]);
                break;
            case 'close':
                $client->close();
                $closed = true;
                break;
            default:
                say(['problem' => "this is not supported: {$told['tell']}"]);
        }
    }
    $closed ? usleep(20_000) : $client->step(20);
}
