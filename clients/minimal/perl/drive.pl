# The driver of dspymq.pl for `dspymq conformance client`: see docs/conformance-drivers.md.
use v5.36;
use POSIX ();
our $json;

my %known = map { $_ => 1 } qw(OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS
    PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE
    DATA_LOSS UNAUTHENTICATED);
my ($input, $closed, %ids) = ('', 0);

sub tell_kit (%line) { say $json->encode(\%line) }

# Puts the text of one call together, and says what its caller would see.
sub reporter ($call) {
    my ($attempt, $chunks, %text) = (0, 0);
    return sub ($event, $what, $more = undef, $header = undef) {
        if ($event eq 'chunk') {
            if ($more || $header->{attempt} > $attempt) { ($chunks, %text) = ($header->{seq}) }
            $attempt = $header->{attempt};
            $chunks = $chunks == $header->{seq} ? $chunks + 1 : -1; # -1: some are missing
            $text{$_} .= $what->{$_} for keys %$what;
            tell_kit(text => { call => $call, fields => \%text });
        }
        elsif ($event eq 'end') {
            my $code = $known{ $what->{code} } ? $what->{code} : 'UNKNOWN'; # R-12.2
            my @said = grep { defined $what->{$_} } qw(reason message attempt);
            my %outcome = (call => $call, code => $code, map { $_ => $what->{$_} } @said);
            $outcome{outputs} = ref $more eq 'HASH' ? $more : {} if $code eq 'OK';
            if ($code eq 'OK' && %text && ($what->{attempt} != $attempt || ($what->{chunks} // 0) != $chunks)) { # R-9.8
                tell_kit(text => { call => $call, fields => { map { $_ => $more->{$_} } keys %text } });
            }
            tell_kit(outcome => \%outcome);
        }
    };
}

sub obey ($told) {
    my $call = $told->{call};
    if ($told->{tell} eq 'submit') {
        my %fields = (%{ $told->{options} // {} }, $told->{stream} ? (want => ['chunks']) : ());
        $fields{window} = $told->{window} if $told->{window};
        my $timeout_ms = $told->{timeout_ms} // 60_000;
        $ids{$call} = submit($told->{program}, $told->{inputs}, $timeout_ms, \%fields, reporter($call));
    }
    elsif ($told->{tell} eq 'cancel') { cancel($ids{$call}) }
    elsif ($told->{tell} eq 'close') { finish_session(); $closed = 1 }
    else { tell_kit(problem => "this is not supported: $told->{tell}") }
}

$| = 1;
$json->boolean_values(Data::MessagePack::false(), Data::MessagePack::true());
start(split /,/, $ENV{DSPYMQ_BROKERS});
tell_kit(ready => \1, supports => [qw(call options stream cancel failover resume close)]);
while (1) {
    vec(my $readable = '', fileno(STDIN), 1) = 1;
    if (select $readable, undef, undef, $closed ? 1 : 0) {
        sysread(STDIN, $input, 65536, length $input) or POSIX::_exit(0); # without waiting for the sockets
        obey($json->decode($1)) while $input =~ s/^(.*)\n//;
    }
    step(0.02) unless $closed;
}
