#define XECG_ISA avx512
#include "fill.h"
