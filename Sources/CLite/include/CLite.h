// What the client library, the node service and programs in C share.
#pragma once
#include "lite.h"
#include "lite_channel.h"
