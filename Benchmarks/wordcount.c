// Counts the words of a text that it reads into memory first.
//
//   wordcount FILE             prints name, seconds, checksum of all words and their counts
//   wordcount --make MEBIBYTES writes a text of that size to standard output
#include "phoenix.h"
#include <fcntl.h>
#include <sys/stat.h>

struct word {
  const char *text;
  uint32_t length, count;
};

struct table {
  struct word *words;
  uint64_t slots, used;
};

static char *text;
static uint64_t bytes;
static struct table tables[THREADS_MAX];

static uint64_t hash(const char *at, uint32_t length) { // FNV-1a
  uint64_t value = 14695981039346656037ULL;
  for (uint32_t i = 0; i < length; i++) value = (value ^ (unsigned char)at[i]) * 1099511628211ULL;
  return value;
}

static void add(struct table *table, struct word word);

static void grow(struct table *table) {
  struct table larger = {calloc(table->slots ? table->slots * 2 : 1024, sizeof(struct word)), table->slots ? table->slots * 2 : 1024, 0};
  if (!larger.words) fail("calloc");
  for (uint64_t i = 0; i < table->slots; i++)
    if (table->words[i].count) add(&larger, table->words[i]);
  free(table->words);
  *table = larger;
}

static void add(struct table *table, struct word word) {
  if (table->used * 2 >= table->slots) grow(table);
  uint64_t slot = hash(word.text, word.length) & (table->slots - 1);
  for (;; slot = (slot + 1) & (table->slots - 1)) {
    struct word *found = &table->words[slot];
    if (!found->count) {
      *found = word;
      table->used++;
      return;
    }
    if (found->length == word.length && !memcmp(found->text, word.text, word.length)) {
      found->count += word.count;
      return;
    }
  }
}

static int is_letter(char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }

static void *count_words(void *argument) {
  struct part *part = argument;
  uint64_t at = part->first, end = part->end;
  // A word belongs to the part that it begins in.
  while (at > 0 && at < bytes && is_letter(text[at - 1]) && is_letter(text[at])) at++;
  while (at < end) {
    while (at < end && !is_letter(text[at])) at++;
    uint64_t start = at;
    if (at >= end) break;
    while (at < bytes && is_letter(text[at])) at++;
    add(&tables[part->index], (struct word){text + start, (uint32_t)(at - start), 1});
  }
  return NULL;
}

static void make(uint64_t size) {
  static char block[1 << 16];
  uint64_t state = 88172645463325252ULL, written = 0, used = 0;
  while (written < size << 20) {
    // A few words are frequent, most are rare: the minimum of three draws from 200 000.
    uint64_t number = UINT64_MAX;
    for (int i = 0; i < 3; i++) {
      uint64_t draw = next_random(&state) % 200000;
      if (draw < number) number = draw;
    }
    int letters = 0;
    for (uint64_t rest = number * 31 + 7; rest || letters < 3; rest /= 26, letters++) block[used++] = (char)('a' + rest % 26);
    block[used++] = number % 11 ? ' ' : '\n';
    if (used > sizeof block - 64) {
      if (fwrite(block, 1, used, stdout) != used) fail("write");
      written += used, used = 0;
    }
  }
}

int main(int count, char **values) {
  if (count == 3 && !strcmp(values[1], "--make")) {
    make(mebibytes(count, values, 2));
    return 0;
  }
  if (count != 2) {
    fprintf(stderr, "usage: wordcount FILE | wordcount --make MEBIBYTES\n");
    return 64;
  }
  begin();
  int file = open(values[1], O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status)) fail(values[1]);
  bytes = (uint64_t)status.st_size;
  text = take(bytes + 1);
  for (uint64_t at = 0; at < bytes;) {
    ssize_t got = read(file, text + at, bytes - at < 1 << 20 ? bytes - at : 1 << 20);
    if (got <= 0) fail("read");
    at += (uint64_t)got;
  }
  map_parts(bytes, count_words);
  struct table all = {0};
  for (int i = 0; i < thread_count(); i++)
    for (uint64_t slot = 0; slot < tables[i].slots; slot++)
      if (tables[i].words[slot].count) add(&all, tables[i].words[slot]);
  uint64_t sum = all.used;
  for (uint64_t slot = 0; slot < all.slots; slot++)
    if (all.words[slot].count) sum += hash(all.words[slot].text, all.words[slot].length) * all.words[slot].count;
  return finish("wordcount", sum);
}
