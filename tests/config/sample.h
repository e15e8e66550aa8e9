// A small configuration with one key of every kind, and the messages of what goes wrong with it.
#pragma once

#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/error.h"

namespace sample {

struct Noise : core::Section {
  double sigma = 0.0;
  std::string at = "inference";
  void keys(core::Keys& k) override {
    k.key("sigma", sigma, "standard deviation in steps", {0, core::kInfinity});
    k.key("at", at, "when it is drawn", {"inference", "train"});
  }
};

struct Weight : core::Section {
  int64_t bits = 4;
  int64_t group_size = 128;
  double clip = 1.0;
  std::vector<double> levels;
  Noise noise;
  void keys(core::Keys& k) override {
    k.key("bits", bits, "bits per weight", {1, 8});
    k.key("group_size", group_size, "weights that share a scale; -1: a row");
    k.key("clip", clip, "factor on the range", {0, 1, true});
    k.key("levels", levels, "levels of a table");
    k.section("noise", noise, "noise on the weights");
  }
  void check() const override {
    core::require(bits > 1 || clip == 1.0, "{} needs at least 2 bits. Raise bits, or remove it.", where("clip"));
  }
};

struct Rule : core::Section {
  std::string match;
  core::Node weight;
  void keys(core::Keys& k) override {
    k.key("match", match, "pattern of module paths");
    k.partial<Weight>("weight", weight, "keys of weight that differ");
  }
};

struct Alpha : core::Section {
  double alpha = 0.5;
  void keys(core::Keys& k) override { k.key("alpha", alpha, "how much | moves", {0, 1}); }
};

struct Empty : core::Section {
  void keys(core::Keys&) override {}
};

struct Transform : core::Section {
  Alpha smooth;
  Empty rotate;
  void keys(core::Keys& k) override {
    k.section("smooth", smooth, "smoothing").only_if_given();
    k.section("rotate", rotate, "rotation").only_if_given();
  }
};

struct Config : core::Section {
  std::string name = "test";
  std::string method = "rtn";
  bool quiet = false;
  std::vector<int64_t> seeds;
  std::vector<std::string> corpora = {"tiny/test"};
  Weight weight;
  std::vector<Rule> rules;
  std::vector<Transform> transform;
  core::Node expect;
  void keys(core::Keys& k) override {
    k.key("name", name, "name of the run");
    k.key("method", method, "how codes are found", {"none", "rtn", "gptq"});
    k.key("quiet", quiet, "print less").not_identity();
    k.key("seeds", seeds, "seeds to repeat with", {0, core::kInfinity});
    k.key("corpora", corpora, "texts to measure on", {"tiny/test", "tiny/train"});
    k.section("weight", weight, "grid of the weights");
    k.list("rules", rules, "exceptions, last match wins");
    k.list("transform", transform, "rewrites, in order");
    k.node("expect", expect, "a regression test");
  }
};

// The config that `text`, as the file a.yaml, stands for.
inline Config bound(const std::string& text) {
  Config config;
  core::bind(core::parse_yaml(text, "a.yaml"), config);
  return config;
}

// The message with which `action` refuses; "" if it does not.
template <class Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const core::UserError& error) {
    return error.what();
  }
  return "";
}

// The message with which `document` refuses `--set assignment`.
inline std::string assign_error(const std::string& document, const std::string& assignment) {
  return refusal([&] {
    core::Node root = core::parse_yaml(document, "a.yaml");
    auto [path, value] = core::parse_override(assignment);
    core::assign(root, path, std::move(value));
  });
}

// `document` after assignments, on one line.
inline std::string assigned(const std::string& document, const std::vector<std::string>& assignments) {
  core::Node root = core::parse_yaml(document, "a.yaml");
  for (const std::string& assignment : assignments) {
    auto [path, value] = core::parse_override(assignment);
    core::assign(root, path, std::move(value));
  }
  return core::to_inline_yaml(root);
}

}  // namespace sample
