// Clusters points of 8 coordinates around 16 means, five rounds of Lloyd's algorithm.
//
//   kmeans MEBIBYTES
#include "phoenix.h"

enum { COORDINATES = 8, MEANS = 16, ROUNDS = 5 };

static float *points;
static float means[MEANS][COORDINATES];
static double sums[THREADS_MAX][MEANS][COORDINATES];
static uint64_t members[THREADS_MAX][MEANS];

static void *make(void *argument) {
  struct part *part = argument;
  for (uint64_t point = part->first; point < part->end; point++) {
    uint64_t state = 88172645463325252ULL + point * 0x9E3779B97F4A7C15ULL;
    next_random(&state);
    for (int i = 0; i < COORDINATES; i++) points[point * COORDINATES + (uint64_t)i] = (float)(next_random(&state) >> 44);
  }
  return NULL;
}

static void *assign(void *argument) {
  struct part *part = argument;
  memset(sums[part->index], 0, sizeof sums[0]);
  memset(members[part->index], 0, sizeof members[0]);
  for (uint64_t point = part->first; point < part->end; point++) {
    const float *at = points + point * COORDINATES;
    int nearest = 0;
    float least = 0;
    for (int mean = 0; mean < MEANS; mean++) {
      float distance = 0;
      for (int i = 0; i < COORDINATES; i++) distance += (at[i] - means[mean][i]) * (at[i] - means[mean][i]);
      if (mean == 0 || distance < least) least = distance, nearest = mean;
    }
    members[part->index][nearest]++;
    for (int i = 0; i < COORDINATES; i++) sums[part->index][nearest][i] += at[i];
  }
  return NULL;
}

int main(int count, char **values) {
  uint64_t total = (mebibytes(count, values, 1) << 20) / sizeof(float) / COORDINATES;
  points = take(total * COORDINATES * sizeof(float));
  map_parts(total, make);
  begin();
  for (int mean = 0; mean < MEANS; mean++) memcpy(means[mean], points + total / MEANS * (uint64_t)mean * COORDINATES, sizeof means[0]);
  for (int round = 0; round < ROUNDS; round++) {
    map_parts(total, assign);
    for (int mean = 0; mean < MEANS; mean++) {
      uint64_t of_all = 0;
      for (int i = 0; i < thread_count(); i++) of_all += members[i][mean];
      for (int i = 0; i < COORDINATES && of_all; i++) {
        double sum = 0; // whole numbers below 2^53: the same in whatever order they are added
        for (int thread = 0; thread < thread_count(); thread++) sum += sums[thread][mean][i];
        means[mean][i] = (float)(sum / (double)of_all);
      }
    }
  }
  uint64_t sum = 0;
  for (int mean = 0; mean < MEANS; mean++)
    for (int i = 0; i < COORDINATES; i++) sum = sum * 31 + (uint64_t)means[mean][i];
  return finish("kmeans", sum);
}
