perl -e 'my %h; $h{$_ % 20000} .= "x$_" for 1 .. 150000; my ($s, $n) = (0, 0); for (sort keys %h) { $s = ($s * 31 + length $h{$_}) % 1000003 } print "$s\n";
  for my $i (1 .. 4) { my $p = fork; if (!$p) { my $t = 0; $t += length for values %h; exit($t % 251) } } print "$?\n" while wait > 0;' | sort
