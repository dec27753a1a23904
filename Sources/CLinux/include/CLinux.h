// Shims over kernel facilities that Swift cannot express, one header per facility. Every function answers -errno on failure.
#pragma once
#include "lego_atomic.h"
#include "lego_epoll.h"
#include "lego_fs.h"
#include "lego_futex.h"
#include "lego_memfd.h"
#include "lego_mount.h"
#include "lego_pidfd.h"
#include "lego_signal.h"
#include "lego_process.h"
#include "lego_sandbox.h"
#include "lego_socket.h"
#include "lego_thread.h"
