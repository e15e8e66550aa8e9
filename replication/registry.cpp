#include "replication/strategy.h"

// One line per strategy: X(name) stands for strategies/name.cpp, which defines make_name().
#define STRATEGIES(X) \
  X(scales) X(row_column) X(low_rank) X(parity_sign) X(shifted) X(token_adaptive) X(depth) X(parallel) X(adjacent)

namespace replication {

#define DECLARE(name) core::Polymorphic<Strategy> make_##name();
STRATEGIES(DECLARE)
#undef DECLARE

Strategies make_strategies() {
#define ENTRY(name) {#name, make_##name()},
  return {STRATEGIES(ENTRY)};
#undef ENTRY
}

}  // namespace replication
