#!/usr/bin/env bash
# The page of a report as a browser draws it, light and dark: whole, and not blank. Skipped where
# there is no chromium.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  skip "no chromium (apt-get install chromium)"
command -v python3 >/dev/null || skip "no python3"

"$millrace" bench produce --target sink --rate 2000 --duration 2s --warmup 1s \
  --json "$scratch/a.json" --html "$scratch/light.html" >"$scratch/table" 2>&1 ||
  fail "the run: $(cat "$scratch/table")"
"$millrace" bench compare "$scratch/a.json" "$scratch/a.json" --html "$scratch/compared.html" \
  >"$scratch/compared" || fail "the comparison: $(cat "$scratch/compared")"
sed 's/<html lang="en">/<html lang="en" data-theme="dark">/' "$scratch/light.html" \
  >"$scratch/dark.html"

# Draws a page; prints how bright its corner is and how many colours it has.
drawn() {
  timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars \
    --screenshot="$scratch/$1.png" --window-size=1200,2200 "file://$scratch/$1.html" \
    >"$scratch/browser" 2>&1 || fail "the browser: $(cat "$scratch/browser")"
  python3 - "$scratch/$1.png" <<'PYTHON'
import struct
import sys
import zlib

data = open(sys.argv[1], "rb").read()
assert data[:8] == b"\x89PNG\r\n\x1a\n"
at, packed = 8, b""
while at < len(data):
    size, kind = struct.unpack(">I4s", data[at : at + 8])
    body = data[at + 8 : at + 8 + size]
    if kind == b"IHDR":
        width, height, depth, colour = struct.unpack(">IIBB", body[:10])
    if kind == b"IDAT":
        packed += body
    at += 12 + size
assert depth == 8 and colour in (2, 6)
channels = 3 if colour == 2 else 4
raw, step = zlib.decompress(packed), width * channels
above, colours, corner = bytearray(step), set(), None
for row in range(height):
    start = row * (step + 1)
    how, line = raw[start], bytearray(raw[start + 1 : start + 1 + step])
    for i in range(step):
        left = line[i - channels] if i >= channels else 0
        corner_left = above[i - channels] if i >= channels else 0
        up = above[i]
        if how == 1:
            line[i] = (line[i] + left) & 255
        elif how == 2:
            line[i] = (line[i] + up) & 255
        elif how == 3:
            line[i] = (line[i] + (left + up) // 2) & 255
        elif how == 4:
            by = left + up - corner_left
            near = min((abs(by - left), 0), (abs(by - up), 1), (abs(by - corner_left), 2))[1]
            line[i] = (line[i] + (left, up, corner_left)[near]) & 255
    above = line
    corner = corner or sum(line[:3]) // 3
    colours.update(bytes(line[i : i + 3]) for i in range(0, step, 7 * channels))
print(corner, len(colours))
PYTHON
}

read -r bright colours < <(drawn light)
[ "$bright" -gt 200 ] && [ "$colours" -gt 20 ] || fail "light: $bright bright, $colours colours"
read -r bright colours < <(drawn dark)
[ "$bright" -lt 60 ] && [ "$colours" -gt 20 ] || fail "dark: $bright bright, $colours colours"
read -r bright colours < <(drawn compared)
[ "$bright" -gt 200 ] && [ "$colours" -gt 20 ] || fail "compared: $bright, $colours colours"
say "passed: a report and a comparison are drawn, light and dark"
