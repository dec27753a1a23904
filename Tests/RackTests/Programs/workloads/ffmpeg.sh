# Encodes a generated video and decodes it again: the digest of every frame.
set -e
for codec in mpeg4 libx264; do
  ffmpeg -v error -nostdin -f lavfi -i testsrc2=size=640x360:rate=25:duration=3 -c:v $codec -threads 2 -y $codec.mkv
  ffmpeg -v error -nostdin -i $codec.mkv -f framemd5 -
done
