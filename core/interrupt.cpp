#include "core/interrupt.h"

#include <unistd.h>

#include <csignal>

namespace core {

namespace {

volatile std::sig_atomic_t arrived = 0;

extern "C" void on_signal(int signal) {
  if (arrived != 0)
    _exit(128 + signal);  // the second: no destructors, files are whole because they are renamed into place
  arrived = signal;
  constexpr char kNotice[] = "\nstopping after the current block; once more to stop at once\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, kNotice, sizeof kNotice - 1);
}

}  // namespace

void watch_signals() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the size limit is an error of the call that writes it
}

void honour_interrupt() {
  if (arrived != 0) throw Interrupted(arrived);
}

}  // namespace core
