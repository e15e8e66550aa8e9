// JSON whose objects keep the order in which their fields were written.
#pragma once

#include <nlohmann/json.hpp>

namespace experiments {

using Json = nlohmann::ordered_json;

}  // namespace experiments
