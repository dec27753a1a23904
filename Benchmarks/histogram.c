// Counts how often each value of each of three colours occurs in an image that it maps.
//
//   histogram FILE
#include "phoenix.h"
#include <fcntl.h>
#include <sys/stat.h>

static const unsigned char *image;
static uint64_t counts[THREADS_MAX][3][256];

static void *count_colours(void *argument) {
  struct part *part = argument;
  uint64_t(*own)[256] = counts[part->index];
  for (uint64_t pixel = part->first; pixel < part->end; pixel++)
    for (int colour = 0; colour < 3; colour++) own[colour][image[pixel * 3 + (uint64_t)colour]]++;
  return NULL;
}

int main(int count, char **values) {
  if (count != 2) {
    fprintf(stderr, "usage: histogram FILE\n");
    return 64;
  }
  begin();
  int file = open(values[1], O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status)) fail(values[1]);
  image = mmap(NULL, (uint64_t)status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  if (image == MAP_FAILED) fail("mmap");
  map_parts((uint64_t)status.st_size / 3, count_colours);
  uint64_t sum = 0;
  for (int colour = 0; colour < 3; colour++)
    for (int value = 0; value < 256; value++) {
      uint64_t of_all = 0;
      for (int i = 0; i < thread_count(); i++) of_all += counts[i][colour][value];
      sum = sum * 31 + of_all;
    }
  return finish("histogram", sum);
}
