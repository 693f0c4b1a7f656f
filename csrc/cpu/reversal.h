// Exchanged limb electrodes, judged on the average beat of three leads: xecg/signal/quality.py, which is the definition, has the
// rule.
#pragma once
#include "qrs.h"

namespace xecg {

struct ReversalRules {
    double before_s, after_s;  // of the average beat, from the R peak
    double clear;              // peakedness of a lead whose beats are taken
    double mirror, p_wave_mv;
};

enum class Reversal { none, right_arm_left_leg, right_arm_left_arm };

// Leads I and II and a chest lead, n samples in mV, finite everywhere.
Reversal limb_reversal(const QrsPlan& plan, const ReversalRules& rules, const float* one, const float* two, const float* chest,
                       int64_t n);

}  // namespace xecg
