#define XECG_ISA avx2
#include "fill.h"
