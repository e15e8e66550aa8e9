// Where texts are found by name: `data/corpora.json` of Refrain's home registers names, each with its file under a data
// root (core/io/data_roots.h) and how its rows become one text. A path works too.
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

// Registered corpora whose file exists, sorted.
std::vector<std::string> list_corpora();

}  // namespace core
