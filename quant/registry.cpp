#include "quant/registry.h"

// One line per method: X(name) stands for methods/name.cpp, which defines make_name().
#define METHODS(X) X(rtn) X(adaround) X(awq) X(gptq) X(hqq) X(ldlq) X(signround) X(stored)

namespace quant {

#define DECLARE(name) core::Polymorphic<Method> make_##name();
METHODS(DECLARE)
#undef DECLARE

Methods make_methods() {
#define ENTRY(name) {#name, make_##name()},
  return {METHODS(ENTRY)};
#undef ENTRY
}

}  // namespace quant
