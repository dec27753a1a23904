# Draws the figures of `Scripts/bench.sh apps` as SVG: for each program, the time in the rack and under swap as a multiple of the
# native one, by the share of its working set that is local. Input: the CSV file with its heading
# (program,local_percent,system,seconds,monitor_seconds,result,rounds).
BEGIN {
  FS = ","
  bars = split("100 rack|50 rack|50 zram|25 rack|25 zram", bar, "|")
  split("#2e7d32 #0b5fa5 #f0a58f #083d6b #c4451c", color, " ")
  left = 60; top = 30; height = 320; wide = 18; gap = 26
}
NR > 1 {
  if (!($1 in known)) { known[$1] = 1; name[++names] = $1 }
  time[$1, $2 " " $3] = $4
}
function up(ratio) { return top + height - (log(ratio < 0.5 ? 0.5 : ratio > 64 ? 64 : ratio) / log(2) + 1) / 7 * height }
END {
  if (!names) { print "bars.awk: nothing to draw" > "/dev/stderr"; exit 1 }
  total = left + names * (bars * wide + gap) + 20
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"11\">\n", total, top + height + 70
  print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
  printf "<text x=\"%d\" y=\"16\" font-size=\"14\" font-weight=\"bold\">time / native time</text>\n", left
  for (r = 1; r <= 64; r *= 2) {
    printf "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>", left, total - 20, up(r), up(r), r == 1 ? "#444" : "#ddd"
    printf "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d</text>\n", left - 6, up(r) + 4, r
  }
  for (n = 1; n <= names; n++) {
    x = left + gap / 2 + (n - 1) * (bars * wide + gap)
    native = time[name[n], "100 native"]
    for (b = 1; b <= bars; b++) {
      value = time[name[n], bar[b]]
      if (value + 0 == 0 || native + 0 == 0) {
        if (value != "") printf "<text x=\"%.1f\" y=\"%d\" transform=\"rotate(-90 %.1f %d)\">%s</text>\n", x + b * wide - 5, top + height - 4, x + b * wide - 5, top + height - 4, value
        continue
      }
      y = up(value / native)
      printf "<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"%s\"/>", x + (b - 1) * wide, y, wide - 2, top + height - y, color[b]
      printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-size=\"8\">%.1f</text>\n", x + (b - 0.5) * wide - 1, y - 2, value / native
    }
    printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x + bars * wide / 2, top + height + 16, name[n]
  }
  for (b = 1; b <= bars; b++) {
    split(bar[b], words, " ")
    x = left + (b - 1) * 150
    printf "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s, %s %% local</text>\n", x, top + height + 36, color[b], x + 18, top + height + 46, words[2], words[1]
  }
  print "</svg>"
}
