// Where texts and models are found by name. Two data roots are searched in this order: `$REFRAIN_HOME/data`
// (REFRAIN_HOME defaults to the working directory) and `$REFRAIN_DATA`. `$REFRAIN_HOME/data/corpora.json` registers
// the names of corpora, each with its file and how its rows become one text; a model's name is its directory under a
// root or under `<root>/models`. A path works for both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/text/join.h"

namespace core {

struct Corpus {
  std::string name;     // as asked for: registered name or path
  std::string path;     // its file
  std::string text;     // UTF-8, checked
  Join join = {};       // how the file becomes the text
  int64_t windows = 0;  // that the published measurement of this text stops at; 0: all
};

// Reads a registered corpus ("wikitext2/test") or a text file given by its path. Throws UserError when neither exists
// (with the nearest and all known names), or when the text is not UTF-8 (with the byte offset).
Corpus load_corpus(const std::string& name_or_path);

// What load_corpus would read, without reading it: the text is empty. Errors: neither exists.
Corpus find_corpus(const std::string& name_or_path);

// The directory of a model: a path, else `<root>/<name>`, else `<root>/models/<name>`. Throws UserError otherwise.
std::string find_model(const std::string& name_or_path);

// Registered corpora whose file exists, and models (directories with a config.json) under the data roots; sorted.
std::vector<std::string> list_corpora();
std::vector<std::string> list_models();

// The data roots that are set, in the order of search; they need not exist.
std::vector<std::string> data_roots();

}  // namespace core
