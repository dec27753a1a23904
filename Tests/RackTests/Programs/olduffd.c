// A library to preload: the userfaultfd interface of an older kernel, which lacks the features of LEGO_LACKING (a mask).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>

int ioctl(int descriptor, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  int (*real)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
  int result = real(descriptor, request, argument);
  const char *lacking = getenv("LEGO_LACKING");
  if (result == 0 && request == UFFDIO_API && lacking)
    ((struct uffdio_api *)argument)->features &= ~strtoull(lacking, NULL, 0);
  return result;
}
