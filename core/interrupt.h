// Stopping on SIGINT and SIGTERM: the first signal asks to stop after the current block, the second stops at once.
#pragma once

#include <exception>

namespace core {

// Thrown by `honour_interrupt`; main turns it into exit code 130 (SIGINT) or 143 (SIGTERM).
class Interrupted : public std::exception {
 public:
  explicit Interrupted(int signal) : signal(signal) {}
  const char* what() const noexcept override { return "interrupted"; }
  const int signal;
};

void watch_signals();     // installs the handlers; once, in main. A write beyond a file size limit stays an error
void honour_interrupt();  // throws Interrupted when a signal has arrived

}  // namespace core
