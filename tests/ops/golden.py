"""Published check values of the recurrences.

The values are (sum, l2 norm, first entry, last entry) of float64 results on `wave` inputs; they were computed by an
implementation of the equations that shares no code with this project. None marks an entry that was not published.
"""

from __future__ import annotations

from torch import Tensor

from tests.tolerances import GOLDEN

Summary = tuple[float | None, float | None, float | None, float | None]

MLSTM: dict[str, dict[str, Summary]] = {
    "exp, zero state": {
        "h": (59.932818405195, 8.033755094140, 0.295519882297, 0.546623516727),
        "C": (1.852720716138, 2.314737305794, -0.621641000559, -0.748130844136),
        "n": (3.388818464510, 2.754577039850, -0.451739396694, 1.100826221152),
        "m": (8.864250695665, 4.535159148028, 1.482340053416, 2.813999930324),
    },
    "sig, zero state": {
        "h": (55.452480366769, 6.900143098749, 0.205384388412, -0.067831002172),
        "C": (-0.666250974299, 2.482161480974, -0.700638919003, -0.897136031079),
    },
    "exp, initial state": {
        "h": (63.346384574658, 8.423673097674, 0.557201393834, 0.525885890848),
        "C": (2.203839326377, 2.330160024432, -0.602020159186, -0.749035494521),
    },
    "exp, reverse": {
        "h": (24.517605418219, 6.992961262953, 0.480531650554, 0.687760072860),
        "C": (34.036187440726, 7.680376341761, 0.981622423316, -0.505303853586),
    },
    "exp, lengths (9, 4)": {"h": (53.793099277540, 7.203905626668, 0.295519882297, 0.0)},
    "exp, 10·i and 10·f": {"h": (57.272942437027, 8.534084802686, 0.295519882297, 0.687760138000)},
}

MLSTM_GRADIENTS: dict[str, Summary] = {
    "dq": (-27.479213641403, 13.684395323735, 0.123504207313, 1.303206898995),
    "dk": (39.637802434219, 11.629384436245, 0.151479791149, -0.237133986513),
    "dv": (19.168990165937, 9.935932716530, 0.928425678934, 0.933142158274),
    "di": (4.540925813388, 5.288666746420, -0.325162569321, -0.229498216737),
    "df": (11.512984384144, 3.714994447801, 0.009064689849, 0.125112349816),
    "dC0": (8.526469882091, 1.752686685263, 0.062239112075, 0.346562512835),
    "dn0": (-5.080186098065, 1.843048875918, 0.188212628208, -0.046714918173),
    "dm0": (-0.923839744051, 0.769598956813, 0.291278011663, -0.314908584501),
}

SLSTM: dict[str, Summary] = {
    "h": (-11.345372350278, 3.569258698957, 0.604687119236, 0.506457831594),
    "c": (0.592514396755, 3.742325261053, -1.403382219981, 1.524500557892),
    "n": (21.919603376716, 6.476392301569, 2.982736356645, 1.711852323151),
    "m": (-4.451094689396, 3.003979488203, 1.331709338521, -0.573158816224),
    "dx": (-9.801082396782, 3.483734495804, -0.002554442196, -0.039790862854),
    "dR": (5.965258693760, 4.381941965920, -0.117859511288, -0.413986308502),
}

SLSTM_WITH_STATE: dict[str, Summary] = {
    "h": (-5.646880792338, 3.189597120490, None, None),
    "dx": (None, 2.715892826415, None, None),
    "dR": (None, 2.996733088479, None, None),
    "dh0": (None, 0.602759126845, None, None),
    "dc0": (None, 0.402980461423, None, None),
    "dn0": (None, 0.240136700170, None, None),
    "dm0": (None, 0.464289255522, None, None),
}


def assert_summary(value: Tensor, expected: Summary) -> None:
    """`value` has the published sum, norm, first and last entry, to the digits printed."""
    flat = value.flatten()
    for what, got, printed in zip(
        ("sum", "norm", "first", "last"), (flat.sum(), flat.norm(), flat[0], flat[-1]), expected
    ):
        if printed is not None:
            assert abs(float(got) - printed) <= 5e-13 + GOLDEN * abs(printed), (what, float(got), printed)
