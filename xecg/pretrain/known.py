"""Content hashes of benchmark recordings, so that renamed copies of them are known: `xecg.pretrain.corpus.content_hash`,
first 16 hex digits. MIT-BIH Arrhythmia Database 1.0.0 (all 48), PTB-XL (48 files), CPSC 2018 and its extra set (39 records
of the Challenge 2021 release). Folders to compare with are the stronger wall: they find cut and shifted copies as well.
"""

from __future__ import annotations

__all__ = ["BENCHMARK_RECORDINGS"]

# fmt: off
BENCHMARK_RECORDINGS = frozenset({
    "7a4ea240ec35b236", "4262e5fdc666072f", "315f46fa14dba4fe", "d469bc0aa939f8ba", "e69afc4b8385707a", "67ce31990739b6b3",
    "1f8d8ee7621411ec", "9f83c55159b1fc2a", "aa6a6ff2fd712f21", "f029212c15e93284", "39bb20e736fc08d7", "69072587a7b27e50",
    "75a3383d59f4e16a", "c46e564c342515dc", "ef123d3ae66ad9a6", "3571e88dd2d27962", "6bf039e132dbc268", "4754a788382a1e27",
    "80378101a6933c61", "5cd6ee93afe05e34", "4fc50c11bc46828a", "944d81afbe326ca4", "9783d32e8c269c56", "01b83a3be5c6496b",
    "860e23a037c0a2b5", "afa82a5cc6bdcf1d", "75bf50d7d18b0347", "f8f01476082657c8", "7c3b1f36af861734", "eb2081676f653ed8",
    "179dbc854590b6ce", "e26205da9dd4d82f", "26fd5a0ec1687a7b", "ce0ca9daf000604d", "105e9b0f5b2ebff8", "9d5c85ae077728a2",
    "ff13336fa3035bbb", "fbda2b2b669409e5", "a88960903646f001", "9bf9379feb059cc4", "46341c3525d4f388", "8571141fea3cb27d",
    "ade44ce7d174a72e", "ae2412ae213f8cd5", "51c50fcc080910fd", "538cc4300b5741ab", "094092af9db23b88", "b489f3730f04d278",
    "0f564577649f1d2e", "1a9f95ef8a8df2a1", "eec2496f4dc7a31a", "7b4330895ab515f0", "40d99393f879008f", "d1f1c9813042f65a",
    "a4ef99be0bb3d54c", "7279c0847902bfe8", "833beaf8aa1514e3", "8b165be8de529dbb", "8b53c951ae6cdd1a", "5d56f04d8e3aa0a2",
    "ada78d53ce795750", "72ab0747e0ad60e1", "adfe47d1d81ae1cd", "999293dac0ccdf62", "35800f3aa5048bbb", "235c9bd59cea7af9",
    "fb1279b5e4b32abc", "55782bad75abf483", "4a24a056f9f650af", "654fc25db62cc393", "ba937404a4b186c8", "ed1404f9ad35a43f",
    "a532a85e17a71f72", "09211cd5f27011f4", "34cad3342396fde8", "adc894f710470a36", "de1cb5604db62477", "0f0593166cd3c14d",
    "4b1456632e85c0f8", "30a511b8b17b3d47", "5abfd7a2dfa37b81", "c63e216cb3e9e068", "97a97495a3317e79", "46e954b415b904e9",
    "34a3ac6950daa010", "fbedcf8c644f30d3", "0de40a03bfb0f3aa", "c34a9bf4604a336c", "9382b440da24c113", "8142f45b6ae08d09",
    "ec9f2f1c84a543e0", "04b90f50bc4b691c", "95997e89c7d2918c", "37151e051d47cbc8", "cfca1b7a234659f9", "0656e6ccd8b2c4c1",
    "a612b6c1c81980fc", "3df55ebee4f0961a", "a2e1f99b097e36d7", "3015e090aeb1e757", "3568771986858c94", "bd806d1ffd275c6a",
    "5660254fb8ccb5c4", "94ba4d293cbf4516", "b51465c473596c83", "93819c22e97fa6a3", "e0bb3de4cdb9f6ff", "11b427071fd87cb7",
    "52926d0c66ea8a49", "865fabba96f0a02e", "d5330f3957be2805", "0504e3c70466d208", "09d5a27ad8198f81", "f3d618de6f936c20",
    "abbf434538c2149e", "5cb1afdf85ca2bf3", "90bbd087eb1aabdd", "36b41f4a806e1d68", "ac9e8a4945f50641", "87b98db9edcf0a6c",
    "1b6e06cb9dbe9b9f", "2b83971daa0f1384", "b474d8f8da7b2c12", "55e21318b1b50492", "08bc7f150012a1ea", "be547767a215a519",
})
# fmt: on
