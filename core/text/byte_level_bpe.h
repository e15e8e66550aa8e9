// Where ByteLevelBpe, a name of JsonTokenizer, is to be found.
#pragma once

#include "core/text/json_tokenizer.h"
