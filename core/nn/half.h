#pragma once

namespace core {

// A half of a block, attention or feed-forward network, each with the norm before it.
enum class Half { none, attention, feed_forward };

}  // namespace core
