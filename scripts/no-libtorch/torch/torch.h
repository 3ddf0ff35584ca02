// Read only where no libtorch is: .cargo/config.toml names this folder as the
// last place to look for headers, so that torch-sys's build ends with this.
#error "No libtorch 2.13 here. Ways out: `make libtorch` fetches a CPU-only one (x86_64 Linux); LIBTORCH=/path/to/libtorch names one that you have; LIBTORCH_USE_PYTORCH=1 takes the one of `pip install torch==2.13.0`."
#include "libtorch"
