// Changes one value of a YAML text and leaves every other byte as its author wrote it.
#pragma once

#include <string>
#include <vector>

#include "core/config/node.h"
#include "core/config/path.h"

namespace core {

// `text` with the scalar at `path` replaced by the scalar `value`: comments, order, quotes and line ends stay. Names of
// the path are taken literally, dots and all. Errors, at `name`: no scalar there; one that spans lines, has escapes,
// an anchor, or is an alias of another.
std::string replace_scalar(const std::string& text, const std::string& name, const std::vector<PathStep>& path,
                           const Node& value);

}  // namespace core
