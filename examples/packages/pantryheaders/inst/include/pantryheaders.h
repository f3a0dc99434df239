#ifndef PANTRYHEADERS_H
#define PANTRYHEADERS_H

namespace pantryheaders {

// What a package compiled against this header knows until it is compiled again.
const int jars_per_shelf = 12;

}  // namespace pantryheaders

#endif
