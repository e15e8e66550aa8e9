// The quantization methods by their YAML names. A new method is one file in methods/ and one line in registry.cpp.
#pragma once

#include <map>
#include <string>

#include "quant/method.h"

namespace quant {

using Methods = std::map<std::string, core::Polymorphic<Method>>;

Methods make_methods();  // fresh objects with default options

}  // namespace quant
