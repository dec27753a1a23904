# Draws the figures of `Scripts/bench.sh fabric` as SVG: a panel an operation, a line a system and path, both axes
# logarithmic. Input: the CSV file with its heading (system,path,operation,bytes,median,least,most,unit,rounds).
BEGIN {
  FS = ","
  panels = split("read|write|message|message rate", panel, "|")
  split("#0b5fa5 #c4451c #2e7d32 #7b1fa2 #b8860b #00838f #ad1457 #455a64", color, " ")
  width = 460; height = 300; left = 70; top = 40
}
NR > 1 && $4 > 0 && $5 > 0 {
  name = $1 " " $2
  if (!(name in number)) { number[name] = ++names; label[names] = name }
  count[$3, name]++
  x[$3, name, count[$3, name]] = $4; y[$3, name, count[$3, name]] = $5
  if (!($3 in low) || $5 < low[$3]) low[$3] = $5
  if ($5 > high[$3]) high[$3] = $5
  if (!first || $4 < first) first = $4
  if ($4 > last) last = $4
  unit[$3] = $8
}
function log10(v) { return log(v) / log(10) }
function down(v) { v = log10(v); return v < int(v) ? int(v) - 1 : int(v) }
function across(bytes) { return left + (log(bytes) - log(first)) / (log(last) - log(first)) * width }
function up(v, a, b) { return top + height - (log10(v) - a) / (b - a) * height }
function size(bytes) { return bytes < 1024 ? bytes " B" : bytes < 1048576 ? bytes / 1024 " KiB" : bytes / 1048576 " MiB" }
END {
  if (!names || first == last) { print "plot.awk: nothing to draw" > "/dev/stderr"; exit 1 }
  total = 2 * (width + 110); tall = 2 * (height + 90) + 20 * int((names + 3) / 4) + 10
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"11\">\n", total, tall
  print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
  for (p = 1; p <= panels; p++) {
    op = panel[p]
    if (!(op in low)) continue
    a = down(low[op]); b = down(high[op]) + 1
    printf "<g transform=\"translate(%d,%d)\">\n", (p - 1) % 2 * (width + 100), int((p - 1) / 2) * (height + 85)
    printf "<text x=\"%d\" y=\"20\" font-size=\"14\" font-weight=\"bold\">%s, %s</text>\n", left, op, unit[op]
    for (e = a; e <= b; e++) {
      printf "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>", left, left + width, up(10 ^ e, a, b), up(10 ^ e, a, b)
      printf "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", left - 6, up(10 ^ e, a, b) + 4, 10 ^ e
    }
    delete marked
    for (n = 1; n <= names; n++) {
      if (!((op, label[n]) in count)) continue
      points = ""
      c = color[(n - 1) % 8 + 1]
      for (i = 1; i <= count[op, label[n]]; i++) {
        bytes = x[op, label[n], i]
        points = points sprintf("%.1f,%.1f ", across(bytes), up(y[op, label[n], i], a, b))
        printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", across(bytes), up(y[op, label[n], i], a, b), c
        if (!(bytes in marked)) printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", across(bytes), top + height + 16, size(bytes)
        marked[bytes] = 1
      }
      printf "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", points, c
    }
    print "</g>"
  }
  for (n = 1; n <= names; n++) {
    cx = left + (n - 1) % 4 * 260; cy = 2 * (height + 85) + 15 + int((n - 1) / 4) * 20
    printf "<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"4\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n", cx, cy - 6, color[(n - 1) % 8 + 1], cx + 20, cy, label[n]
  }
  print "</svg>"
}
