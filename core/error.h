// The user's mistakes: one exception type, one line of text that says what, where and what to do.
// Thrown by `fail` and `require`, caught once in main (exit code 2). Our own bugs use TORCH_CHECK and keep their stack.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <utility>

namespace core {

class UserError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws UserError. The text reads "<where>: <what>. <what to do>." and is one line.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) {
  throw UserError(fmt::format(text, std::forward<Args>(args)...));
}

// `fail` unless `fact` holds.
template <typename... Args>
void require(bool fact, fmt::format_string<Args...> text, Args&&... args) {
  if (!fact) fail(text, std::forward<Args>(args)...);
}

}  // namespace core
