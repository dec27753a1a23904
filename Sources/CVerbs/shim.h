#pragma once
#include <infiniband/verbs.h>
