#pragma once
#include <rdma/rdma_cma.h>
