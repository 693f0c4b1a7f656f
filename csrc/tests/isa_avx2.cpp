#define XECG_ISA avx2
#include "math_cases.h"
