// epoll(7) and eventfd(2), which the C library's Swift module leaves out.
#pragma once
#include <sys/epoll.h>
#include <sys/eventfd.h>
