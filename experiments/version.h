// Which Refrain made a result: the commit that the program was built from.
#pragma once

namespace experiments {

// The commit as git describes it: 12 hexadecimal digits, "-dirty" behind them if the sources differed from it; "unknown" without git.
const char* commit();

}  // namespace experiments
