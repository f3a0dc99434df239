#include <pantryheaders.h>

#include <R_ext/Rdynload.h>
#include <Rinternals.h>

extern "C" SEXP count_jars(SEXP shelves) {
    return Rf_ScalarInteger(Rf_asInteger(shelves) * pantryheaders::jars_per_shelf);
}

static const R_CallMethodDef calls[] = {
    {"C_count_jars", (DL_FUNC)&count_jars, 1},
    {nullptr, nullptr, 0},
};

extern "C" void R_init_pantrycount(DllInfo *dll) {
    R_registerRoutines(dll, nullptr, calls, nullptr, nullptr);
    R_useDynamicSymbols(dll, FALSE);
}
