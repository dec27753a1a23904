#include "CLite.h"

const char *lite_status_text(int status) {
  switch (status) {
  case LITE_OK: return "done";
  case LITE_EINVAL: return "an argument is out of range";
  case LITE_ENOSPACE: return "the node's arena has no room for it";
  case LITE_ENOENT: return "there is nothing of that name";
  case LITE_EEXIST: return "the name or the function is taken";
  case LITE_EHANDLE: return "the handle is not one of this program, or was closed";
  case LITE_EACCESS: return "the handle does not have the right";
  case LITE_ERANGE: return "the range ends beyond the region";
  case LITE_ENODE: return "the node is not known or was lost";
  case LITE_ETIMEDOUT: return "not within the time given";
  case LITE_ETOOLARGE: return "the message is larger than the function, the buffer or the limit allows";
  case LITE_EBUSY: return "the function's queue is full, or too many operations are under way";
  case LITE_ENOFUNCTION: return "nobody on that node serves the function";
  case LITE_EGONE: return "the region was freed, or the program at the other end has ended";
  case LITE_EDAEMON: return "this host's LITE daemon cannot be reached or has ended";
  case LITE_ENOTHELD: return "the lock is not held by this program";
  case LITE_ELIMIT: return "a limit of the daemon is reached";
  default: return status > 0 ? "done" : "an unknown status";
  }
}
