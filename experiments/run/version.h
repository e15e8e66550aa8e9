// Which Refrain made a result: the commit that the program was built from.
#pragma once

namespace experiments {

// The commit as git describes it: 12 hexadecimal digits, "-dirty" added if the sources differ; "unknown" without git.
const char* commit();

}  // namespace experiments
