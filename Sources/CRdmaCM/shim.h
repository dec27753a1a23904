#pragma once
// First, so that the verbs belong to their own module and not to both.
#include "../CVerbs/shim.h"
#include <rdma/rdma_cma.h>
