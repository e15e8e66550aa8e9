// What Refrain's programs share: how they end.
#pragma once

#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/interrupt.h"

namespace experiments {

inline constexpr int kFailed = 1, kUserError = 2;

// Reads the command line. False when only the help was asked for, which is printed. Throws UserError.
inline bool parsed(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return true;
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return false;
  } catch (const CLI::ParseError& error) {
    core::fail("{}. Try --help.", error.what());
  }
}

// The exit code of `program`, also when it throws; why is said on standard error: kUserError for a mistake of the user,
// kFailed for a bug of ours, 128 + the signal after an interruption. interrupted: what is said then.
template <typename Program>
int guarded(const Program& program, const char* interrupted) {
  core::watch_signals();
  try {
    return program();
  } catch (const core::UserError& error) {
    fmt::print(stderr, "{}\n", error.what());
    return kUserError;
  } catch (const core::Interrupted& stop) {
    fmt::print(stderr, "{}\n", interrupted);
    return 128 + stop.signal;
  } catch (const std::exception& error) {
    fmt::print(stderr, "this is a bug in Refrain: {}\n", error.what());
    return kFailed;
  }
}

}  // namespace experiments
