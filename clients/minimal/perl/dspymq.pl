#!/usr/bin/env perl
# A small DJP/1 client, ZMQ::FFI and Data::MessagePack: calls, streams, cancel, failover. R-... are rules of SPEC.md.
use v5.36;
use Data::MessagePack;
use FindBin;
use JSON::PP;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC sleep);
use ZMQ::FFI qw(ZMQ_DEALER ZMQ_DONTWAIT ZMQ_IMMEDIATE ZMQ_LINGER ZMQ_RECONNECT_IVL_MAX);

my $msgpack = Data::MessagePack->new->utf8; # without ->utf8 every string, keys too, would be written as bin
my ($context, $socket, @addresses, %jobs, @acks); # the session; times are seconds of a clock that never goes back
my ($greeted, $welcomed, $refusal, $since, $heard, $sent, $limits, $ping_s, $dead_s);
my ($epoch, $pause, $refused, $number, $next, $turn) = ('', 0.05, 0, 0, 0, now());

sub now { clock_gettime(CLOCK_MONOTONIC) }
sub open_jobs { sort { $a->{number} <=> $b->{number} } values %jobs } # in the order in which they were submitted

sub start (@list) { ($context, @addresses) = (ZMQ::FFI->new, @list), open_socket() }

# Returns the job's id. The listener gets 'accepted' with the state; 'chunk' with its fields, whether they replace all
# text so far, and the header; once 'end', with the header of `result` or `error`, and the outputs.
sub submit ($program, $inputs, $timeout_ms, $fields, $listener) {
    open my $random, '<:raw', '/dev/urandom' or die "urandom: $!";
    read $random, my $octets, 16;
    my $header = { t => 'submit', job => unpack('H32', $octets), program => $program, %$fields };
    my $body = $msgpack->pack({ inputs => $inputs }); # kept, to be sent again as it is (R-2.23)
    $jobs{ $header->{job} } = { header => $header, body => $body, deadline => now() + $timeout_ms / 1000, epochs => [],
        again_at => now(), attempt => 0, pause => 50, listener => $listener, number => $number++ };
    return $header->{job};
}

sub cancel ($id) { # what was not sent yet is sent with its cancel
    $jobs{$id}{cancelled} = 1 if $jobs{$id};
    send_message({ t => 'cancel', job => $id }) if $jobs{$id} && $welcomed && !$jobs{$id}{again_at};
}

sub step ($wait_s) { # takes in what has come, and does what time asks for
    vec(my $readable = '', $socket->get_fd, 1) = 1;
    select $readable, undef, undef, $wait_s unless $socket->has_pollin;
    while ($socket->has_pollin) {
        my @frames = $socket->recv_multipart(ZMQ_DONTWAIT);
        $heard = now();
        eval { take(@frames) }; # whatever arrives, it goes on (R-2.10)
    }
    send_message({ t => 'ack', jobs => [splice @acks, 0, 1000] }) if $welcomed && @acks;
    keep_session(now());
    for my $job (open_jobs()) {
        send_job($job) if $welcomed && $job->{again_at} && now() >= $job->{again_at};
        finish($job, $refusal) if $refusal; # no broker takes this client
        fail($job, 'DEADLINE_EXCEEDED', 'deadline') if now() >= $job->{deadline} + ($welcomed ? 10 : 0); # R-7.11
    }
}

sub finish_session { # what still runs is cancelled with that (R-3.21)
    step(0);
    send_message({ t => 'bye' }) if $welcomed;
    $socket->set_linger(1000);
    $socket->close;
    $context->destroy;
}

sub open_socket { # at the next address, after a growing pause (R-3.30, R-3.31)
    $socket->close, sleep $pause * (0.5 + rand 0.5) if $socket;
    $pause = $pause < 0.5 ? $pause * 2 : 1;
    $socket = $context->socket(ZMQ_DEALER);
    $socket->set($_->[0], 'int', $_->[1]) for [ZMQ_LINGER, 0], [ZMQ_IMMEDIATE, 1], [ZMQ_RECONNECT_IVL_MAX, 1000];
    $socket->connect($addresses[$next]);
    $next = ($next + 1) % @addresses;
    ($since, $greeted, $welcomed, $refusal) = (now(), 0, 0, undef);
}

sub keep_session ($now) {
    $heard = $since = $now if $now - $turn > 1; # this process was stopped itself: silence proves nothing (R-3.15)
    $turn = $now;
    my $connected = $socket->has_pollout; # with IMMEDIATE a socket is writable while it is connected
    if ($greeted && !$connected) { ($greeted, $welcomed, $since) = (0, 0, $now) }
    elsif ($connected && !$greeted) {
        send_message({ t => 'hello', name => 'minimal-perl', lang => 'perl', features => ['ack'] });
        ($greeted, $since) = (1, $now);
    }
    elsif ($welcomed ? $now - $heard >= $dead_s : $now - $since >= ($greeted ? 5 : 1)) { open_socket() }
    elsif ($welcomed && $now - $sent >= $ping_s) { send_message({ t => 'ping' }) }
}

sub send_message ($header, @body) { # while it is not connected nothing is sent; keep_session sees that
    eval { $socket->send_multipart(['DJP1', $msgpack->pack($header), @body], ZMQ_DONTWAIT); $sent = now() };
}

sub send_job ($job) {
    my @others = grep { $_ ne $epoch } @{ $job->{epochs} };
    my $left_ms = ($job->{deadline} - now()) * 1000;
    return fail($job, 'DEADLINE_EXCEEDED', 'deadline') if $left_ms < 1; # R-5.10
    my $header = { %{ $job->{header} }, timeout_ms => $left_ms | 0 }; # | 0: an integer, not a float
    $header->{known_epoch} = $others[-1] // $epoch if @{ $job->{epochs} }; # R-8.3
    my %part = (header => $msgpack->pack($header), body => $job->{body});
    my ($large) = grep { length $part{$_} > $limits->{"max_${_}_bytes"} } keys %part; # R-2.16
    return fail($job, 'RESOURCE_EXHAUSTED', "${large}_too_large") if $large;
    send_message($header, $job->{body});
    @$job{qw(epochs again_at)} = ([@others, $epoch], undef);
    send_message({ t => 'cancel', job => $header->{job} }) if $job->{cancelled};
}

sub take (@frames) { # what is not named here is ignored (R-4.2)
    return unless (@frames == 2 || @frames == 3) && $frames[0] eq 'DJP1';
    my ($h, $body) = map { length ? $msgpack->unpack($_) : {} } @frames[1 .. $#frames];
    my ($t, $job) = ($h->{t}, $jobs{ $h->{job} // '' });
    if ($t eq 'ping') { send_message({ t => 'pong', n => $h->{n} // 0 }) }
    elsif ($t eq 'bye') { open_socket() }
    elsif ($t eq 'welcome' && !$welcomed) {
        @acks = () if $epoch ne $h->{epoch}; # R-8.2
        ($epoch, $limits, $welcomed, $refused, $next) = (@$h{qw(epoch limits)}, 1, 0, 0);
        ($ping_s, $dead_s) = ($h->{ping_ms} / 1000, $h->{dead_ms} / 1000);
        send_job($_) for open_jobs(); # R-5.10
    }
    elsif ($t eq 'error') { take_error($h, $job) }
    elsif ($t eq 'accepted' && $job) { $job->{listener}->('accepted', $h->{state}) }
    elsif ($t eq 'chunk' && $job && $h->{attempt} >= $job->{attempt}) {
        my $anew = $h->{reset} || ($job->{attempt} && $h->{attempt} > $job->{attempt}); # R-9.7
        $job->{attempt} = $h->{attempt};
        $job->{listener}->('chunk', $body->{fields}, $anew, $h);
    }
    elsif ($t eq 'result') {
        push @acks, $h->{job};
        finish($job, $h, map_of(map_of($body)->{outputs})) if $job;
    }
}

sub map_of ($value) { ref $value eq 'HASH' ? $value : {} } # an empty array is an empty map, too (R-2.21)

sub take_error ($h, $job) {
    if ($h->{reason} eq 'no_session') { ($greeted, $welcomed) = ($greeted && !$welcomed, 0) } # R-3.9
    elsif ($job && $h->{retryable} && $h->{reason} ne 'no_worker') { # section 12.5
        pop @{ $job->{epochs} }; # R-8.3: what is refused does not count as sent
        $job->{again_at} = now() + ($h->{retry_after_ms} // ($job->{pause} *= 2)) / 1000 + rand 0.2;
    }
    elsif ($job) { finish($job, $h) }
    elsif (!$welcomed && ($h->{retryable} || ++$refused < @addresses)) { open_socket() } # the answer to hello
    elsif (!$welcomed) { $refusal = $h }
}

sub finish ($job, $h, $o = undef) { delete $jobs{ $job->{header}{job} } and $job->{listener}->('end', $h, $o) }
sub fail ($job, $code, $reason) { finish($job, { code => $code, reason => $reason, message => 'the client gave up' }) }

sub Data::MessagePack::Boolean::TO_JSON ($self) { $$self ? \1 : \0 }
our $json = JSON::PP->new->utf8->canonical->allow_nonref->convert_blessed;

sub call ($list, $program, @rest) {
    my ($want, $timeout_ms, $interrupts, $code, %inputs) = ({}, 30_000, 0);
    while (defined(my $argument = shift @rest)) {
        if ($argument eq '--stream') { $want = { want => ['accepted', 'chunks'] } }
        elsif ($argument eq '--timeout-ms') { $timeout_ms = shift @rest }
        else { %inputs = (%inputs, split /=/, $argument, 2) }
    }
    local $SIG{INT} = sub { $interrupts++ };
    start(split /,/, $list);
    my $id = submit($program, \%inputs, $timeout_ms, $want, sub ($event, $what, $more = undef, @) {
        say STDERR "accepted $what" if $event eq 'accepted';
        say STDERR $more ? "reset\n" : '', 'chunk ', $json->encode($what) if $event eq 'chunk';
        return if $event ne 'end';
        $code = $what->{code} eq 'OK' ? 0 : 1;
        utf8::encode(my $why = join ' ', map { $_ // '' } @$what{qw(code reason message)});
        $code ? say STDERR $why : say $json->encode($more);
    });
    for (; !defined $code && $interrupts < 3; step(0.05)) { cancel($id) if $interrupts == 1 && $interrupts++ }
    return finish_session() && ($code // 1);
}

utf8::decode($_) for @ARGV;
if (@ARGV == 1 && $ARGV[0] eq 'drive') { require "$FindBin::Bin/drive.pl" }
elsif (@ARGV > 2 && $ARGV[1] eq 'call') { exit call(@ARGV[0, 2 .. $#ARGV]) }
else { die "usage: dspymq.pl ADDR[,ADDR...] call PROGRAM [key=value ...] [--stream] [--timeout-ms N]\n" }
