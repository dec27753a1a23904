// Means and covariances of the 128 rows of a matrix, the first step of a principal component analysis. Covariances are summed over
// one block of columns after the other, as for any matrix that is larger than the cache.
//
//   pca MEBIBYTES
#include "phoenix.h"

enum { ROWS = 128, BLOCK = 4096 };

static int32_t *matrix;
static uint64_t columns;
static int64_t means[ROWS], covariances[THREADS_MAX][ROWS][ROWS];

static void *make(void *argument) {
  struct part *part = argument;
  for (uint64_t row = part->first; row < part->end; row++) {
    uint64_t state = 88172645463325252ULL + row;
    for (uint64_t i = 0; i < columns; i++) matrix[row * columns + i] = (int32_t)(next_random(&state) >> 56);
  }
  return NULL;
}

static void *mean(void *argument) {
  struct part *part = argument;
  for (uint64_t row = part->first; row < part->end; row++) {
    int64_t sum = 0;
    for (uint64_t i = 0; i < columns; i++) sum += matrix[row * columns + i];
    means[row] = sum / (int64_t)columns;
  }
  return NULL;
}

static int64_t product(const int32_t *one, int32_t mean_one, const int32_t *other, int32_t mean_other, uint64_t length) {
  int64_t sum = 0;
  for (uint64_t i = 0; i < length; i++) sum += (one[i] - mean_one) * (other[i] - mean_other);
  return sum;
}

static void *covariance(void *argument) {
  struct part *part = argument;
  for (uint64_t block = part->first; block < part->end; block++) {
    uint64_t from = block * BLOCK, length = columns - from < BLOCK ? columns - from : BLOCK;
    for (uint64_t i = 0; i < ROWS; i++)
      for (uint64_t j = i; j < ROWS; j++)
        covariances[part->index][i][j] += product(matrix + i * columns + from, (int32_t)means[i], matrix + j * columns + from, (int32_t)means[j], length);
  }
  return NULL;
}

int main(int count, char **values) {
  columns = (mebibytes(count, values, 1) << 20) / sizeof(int32_t) / ROWS;
  matrix = take(columns * ROWS * sizeof(int32_t));
  map_parts(ROWS, make);
  begin();
  map_parts(ROWS, mean);
  map_parts((columns + BLOCK - 1) / BLOCK, covariance);
  uint64_t sum = 0;
  for (int i = 0; i < ROWS; i++)
    for (int j = i; j < ROWS; j++) {
      int64_t of_all = 0;
      for (int thread = 0; thread < thread_count(); thread++) of_all += covariances[thread][i][j];
      sum = sum * 31 + (uint64_t)of_all;
    }
  return finish("pca", sum);
}
