// What the tests of the user's mistakes share: the mistake is refused with one line and exit code 2, and leaves
// nothing.
#pragma once

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "core/config/nearest.h"
#include "quant/config.h"
#include "tests/cli/program.h"

namespace cli {

// The keys of a section as messages list them.
template <class Section>
std::string keys_of() {
  Section section;
  return core::joined(core::keys_of(section).names());
}
inline std::string methods() {
  std::vector<std::string> names{quant::QuantConfig::kNone};
  for (const auto& [name, method] : quant::make_methods()) names.push_back(name);
  return core::joined(names);
}

class BadInput : public ::testing::Test {
 protected:
  void refused(const std::string& message, const Strings& arguments = {"c.yaml"}) {
    const Strings before = program_.everything();
    const Finished finished = program_.run(arguments);
    EXPECT_EQ(finished.code, 2);
    EXPECT_EQ(finished.err, message + "\n");
    EXPECT_EQ(finished.out, "");
    EXPECT_EQ(program_.everything(), before) << "something was written";
  }
  void refused_after(const std::string& from, const std::string& to, const std::string& message) {
    program_.edit(from, to);
    refused(message);
  }

  Program program_;
};

}  // namespace cli
