#include "CAgent.h"
