#define XECG_ISA base
#include "fill.h"
