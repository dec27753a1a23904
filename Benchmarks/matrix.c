// Multiplies two square matrices of whole numbers, block by block.
//
//   matrix MEBIBYTES     the three matrices together
#include "phoenix.h"

enum { BLOCK = 128 };

static int32_t *left, *right, *result;
static uint64_t side;

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void multiply_block(uint64_t row, uint64_t inner, uint64_t column) {
  uint64_t rows = least(row + BLOCK, side), inners = least(inner + BLOCK, side), columns = least(column + BLOCK, side);
  for (uint64_t i = row; i < rows; i++)
    for (uint64_t k = inner; k < inners; k++) {
      int32_t factor = left[i * side + k];
      for (uint64_t j = column; j < columns; j++) result[i * side + j] += factor * right[k * side + j];
    }
}

static void *multiply(void *argument) {
  struct part *part = argument;
  for (uint64_t block = part->first; block < part->end; block++)
    for (uint64_t inner = 0; inner < side; inner += BLOCK)
      for (uint64_t column = 0; column < side; column += BLOCK) multiply_block(block * BLOCK, inner, column);
  return NULL;
}

int main(int count, char **values) {
  uint64_t words = (mebibytes(count, values, 1) << 20) / sizeof(int32_t) / 3, state = 88172645463325252ULL, sum = 0;
  while ((side + 1) * (side + 1) <= words) side++;
  left = take(side * side * sizeof(int32_t));
  right = take(side * side * sizeof(int32_t));
  result = take(side * side * sizeof(int32_t));
  for (uint64_t i = 0; i < side * side; i++) left[i] = (int32_t)(next_random(&state) >> 54), right[i] = (int32_t)(next_random(&state) >> 54);
  begin();
  map_parts((side + BLOCK - 1) / BLOCK, multiply);
  for (uint64_t i = 0; i < side * side; i++) sum = sum * 31 + (uint64_t)(uint32_t)result[i];
  return finish("matrix", sum);
}
