"""Operations on packed codes: declared once, implemented per backend."""
