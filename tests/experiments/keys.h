// What the proofs of tests/experiments/keys_test.cpp share: for every key a function that shows what it does.
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <map>
#include <memory>
#include <set>

#include "tests/experiments/support.h"

namespace experiments {

// The values that a key of the configuration can take, as it declares them; path: "measure.perplexity[].protocol".
Strings choices_of(const std::string& path);

using Proofs = std::map<std::string, std::function<void()>>;  // by path of the key

class Proof {
 protected:
  void changes_the_result(const std::string& assignment, const Strings& given = {}) {
    Strings changed = given;
    changed.push_back(assignment);
    EXPECT_NE(lab_.id(changed), lab_.id(given));
    EXPECT_NE(lab_.nll(changed), lab_.nll(given));
  }
  // No two values of a key give the same result. more: what a value needs beside it.
  void each_choice_differs(const std::string& key, const Strings& given = {},
                           const std::map<std::string, Strings>& more = {}) {
    std::set<double> results;
    for (const std::string& value : choices_of(key)) {
      Strings all = given;
      all.push_back(key + "=" + value);
      if (const auto found = more.find(value); found != more.end())
        all.insert(all.end(), found->second.begin(), found->second.end());
      EXPECT_TRUE(results.insert(lab_.nll(all)).second) << key << "=" << value;
    }
  }

  const Strings kInputs{"quant.activation.bits=4"};
  const Strings calibrated_{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64"};
  Lab lab_{shallow_model()};
};

// The proofs of P, which live as long as they do.
template <class P>
Proofs proofs_of() {
  const auto proof = std::make_shared<P>();
  Proofs all = proof->all();
  for (auto& [path, show] : all) show = [proof, show] { show(); };
  return all;
}

Proofs proofs_of_runs();
Proofs proofs_of_quantization();  // also calibration and transform
Proofs proofs_of_exports();
Proofs proofs_of_replication();  // also qat

}  // namespace experiments
