// epoll(7), eventfd(2) and timerfd_create(2), which the C library's Swift module leaves out.
#pragma once
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
