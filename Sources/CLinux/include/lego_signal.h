// signalfd(2), and the end of a process by a chosen signal.
#pragma once
#include <stddef.h>

// Blocks the signals in the calling thread (and in those it starts later) and answers a close-on-exec, non-blocking descriptor
// that reads them.
int lego_signal_descriptor(const int *signals, size_t count);
// The next signal of such a descriptor; 0 when there is none.
int lego_signal_next(int descriptor);
// Ends the process by the signal's default action without a core file. Returns only when that action does not end a process.
void lego_signal_die(int signal_number);
// Stops the process as the terminal's stop key would, and returns when it is continued; at once where nobody could continue it
// (an orphaned process group). SIGTSTP stays blocked afterwards.
void lego_signal_stop_self(void);
// Whether the process ignores the signal, as nohup(1) and the background jobs of a shell do.
int lego_signal_is_ignored(int signal_number);
