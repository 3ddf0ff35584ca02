"""`ops`: the ops of tests/dispatcher/ops.rs, from the folder that
TCH_FUNCTION_TEST_OPS names, or else from cargo's debug build.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# PyTorch keeps compiled graphs, which an earlier build of the ops may have traced.
CACHE = tempfile.mkdtemp()
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["TORCHINDUCTOR_CACHE_DIR"] = CACHE

import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("TCH_FUNCTION_TEST_OPS", ROOT / "target/debug"))
LIBRARY = FOLDER / "libtch_function_test_ops.so"

if not LIBRARY.exists():
    raise ImportError(f"{LIBRARY} is not there; `cargo build --workspace --lib` makes it")
torch.ops.load_library(LIBRARY)
ops = torch.ops.tf_test
